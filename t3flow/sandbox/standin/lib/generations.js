// The differences between the generations of t3 that an updater can see. `behavior.json` names the generation of this build.
const A = {
  letter: "A",
  level: 30,
  native: false, // separate launcher and program
  live: "state.sqlite",
  seeds: [], // the live database is created from these
  busyTimeoutMs: 0,
  stopMs: 0,
  identityCookie: false, // the name contains the environment-id
  pairing: { path: "/api/auth/bootstrap", badJson: 400 },
  bearer: { path: "/api/auth/bootstrap/bearer", field: "sessionToken", formOnly: false },
  sessionDocument: true,
  reads: { "/api/orchestration/snapshot": "snapshot" },
  activity: "sessions",
  recoversMs: null, // delay until the work of a killed server is ended
  environment: {},
  logsEmptyMigrations: true,
  commands: [],
  revokesSessions: false,
  unknownCommandIsFolder: true,
};

const B = {
  ...A,
  letter: "B",
  level: 32,
  pairing: { path: "/api/auth/browser-session", badJson: 500 },
  bearer: { path: "/oauth/token", field: "access_token", formOnly: false },
};

// The builds of August 2026, which are still one Node package.
const lateB = {
  ...B,
  level: 41,
  reads: { "/api/orchestration/snapshot": "snapshotWithoutMessages", "/api/orchestration/shell": "shell" },
  recoversMs: 2500,
};

const C = {
  ...lateB,
  letter: "C",
  level: 52,
  native: true,
  busyTimeoutMs: 5000,
  stopMs: 250,
  identityCookie: true,
  pairing: { ...B.pairing, badJson: 400 },
  bearer: { ...B.bearer, formOnly: true },
  activity: "sessionsAndTurns",
  environment: { capabilities: { repositoryIdentity: true } },
  logsEmptyMigrations: false,
  commands: ["pair", "update", "service"],
  revokesSessions: true,
};

const D = {
  ...C,
  letter: "D",
  level: 56,
  live: "statev2.sqlite",
  seeds: ["state.sqlite"],
  reads: { "/api/orchestration/shell": "shellV2" },
  activity: "runs",
  recoversMs: 1000,
  environment: { ...C.environment, orchestrationProtocolVersion: 2 },
  unknownCommandIsFolder: false,
};

// A generation that no updater knows. Each part is also available as a fault.
const UNKNOWN = {
  unknown_database: (known) => ({ live: "journal3.sqlite", seeds: ["statev2.sqlite", "state.sqlite"], level: known.level }),
  unknown_activity: () => ({ activity: "journal" }),
  unknown_read_api: () => ({ reads: { "/api/v3/threads": "threadsV3" } }),
  no_session_document: () => ({ sessionDocument: false }),
};

const E = Object.values(UNKNOWN).reduce((known, part) => ({ ...known, ...part(known) }), {
  ...D,
  letter: "E",
  level: 60,
  environment: { ...D.environment, orchestrationProtocolVersion: 3 },
});

function choose({ generation, schema_level: level, rules = [] }) {
  const letter = generation ?? ((level ?? B.level) < 31 ? "A" : "B");
  const known = letter === "B" && level >= lateB.level ? lateB : { A, B, C, D, E }[letter];
  const parts = rules.filter(({ fault }) => fault in UNKNOWN).map(({ fault }) => UNKNOWN[fault](known));
  return Object.assign({}, known, ...parts);
}

module.exports = { choose };
