// The name of the session cookie: plain, or with the port and the user's environment-id.
const crypto = require("node:crypto");
const { fault, generation, version } = require("./behavior.js");

const LOOPBACK = new Set(["127.0.0.1", "::1", "localhost"]);
const PLAIN = "t3_session";
const [, , patch] = version.split(/[.-]/).map(Number);
const byPort = generation.identityCookie || (version.startsWith("0.0.") && patch >= 34);

const isLoopback = (state) => LOOPBACK.has(state.host);

function cookieName(state) {
  if (!byPort || (!generation.identityCookie && !isLoopback(state))) return PLAIN;
  const seed = fault("cookie_changes", state) ? `${state.environmentId} ${state.startedAt}` : state.environmentId;
  const mark = crypto.createHash("sha256").update(seed).digest("hex").slice(0, 12);
  return isLoopback(state) ? `${PLAIN}_${state.port}_${mark}` : `${PLAIN}_${mark}`;
}

// Returns the token of a request: a bearer token, or the cookie of this server. All generations accept the plain name.
function tokenOf(state, request) {
  const bearer = /^Bearer (.+)$/.exec(request.headers.authorization ?? "");
  if (bearer) return bearer[1];
  const pairs = (request.headers.cookie ?? "").split(/;\s*/).map((pair) => pair.split(/=(.*)/s));
  const names = fault("cookie_changes", state) ? [cookieName(state)] : [cookieName(state), PLAIN];
  return pairs.find(([name]) => names.includes(name))?.[1];
}

module.exports = { cookieName, isLoopback, tokenOf };
