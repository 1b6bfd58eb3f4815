// The stop of a server.
const fs = require("node:fs");
const activity = require("./activity/index.js");
const { behavior, fault, generation } = require("./behavior.js");
const children = require("./children.js");
const { commit } = require("./deeds.js");
const { fail } = require("./log.js");

const STOP_MS = behavior.stop_ms ?? generation.stopMs;
const EARLY_STOP_MS = behavior.early_stop_ms ?? STOP_MS; // in the first seconds after a start
const EARLY_MS = 2000;

function stop(state) {
  if (fault("ignores_sigterm", state) || state.stopping) return;
  const { seconds, exit_code: code = 130, abruptly = false } = fault("stops_oddly", state) ?? {};
  if (abruptly) process.exit(code);
  const early = Date.now() - Date.parse(state.startedAt) < EARLY_MS;
  const delay = seconds ? seconds * 1000 : early ? EARLY_STOP_MS : STOP_MS;
  state.stopping = true;
  if (delay) setTimeout(() => end(state, code), delay);
  else end(state, code);
}

function end(state, code) {
  children.endAll();
  try {
    activity.stopped(state);
  } catch (error) {
    fail(error); // an older build on a newer schema
  }
  try {
    state.database.close(); // checkpoints and removes the WAL
    fs.rmSync(state.runtime, { force: true });
    commit("stop", { ...state, database: null });
  } finally {
    process.exit(code);
  }
}

module.exports = { stop };
