// What the session cookie is called: plainly, or by port and by the user's environment-id.
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

// The token that a request brings: a bearer's, or that of a cookie of this server. The plain name is taken everywhere.
function tokenOf(state, request) {
  const bearer = /^Bearer (.+)$/.exec(request.headers.authorization ?? "");
  if (bearer) return bearer[1];
  const pairs = (request.headers.cookie ?? "").split(/;\s*/).map((pair) => pair.split(/=(.*)/s));
  const names = fault("cookie_changes", state) ? [cookieName(state)] : [cookieName(state), PLAIN];
  return pairs.find(([name]) => names.includes(name))?.[1];
}

module.exports = { cookieName, isLoopback, tokenOf };
