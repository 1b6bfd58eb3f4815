// The part of the HTTP API that an updater, a dispatch and a browser's first visit use.
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const auth = require("./auth.js");
const { fail } = require("./log.js");
const { altered, fault, generation, root, version } = require("./behavior.js");
const { control } = require("./controls.js");
const { cookieName, isLoopback, tokenOf } = require("./cookies.js");
const { readers } = require("./rows.js");

const CLIENT = fs.existsSync(path.join(root, "client")) ? "client" : "web";
const FORM = "application/x-www-form-urlencoded";

function send(response, status, sound, headers = {}) {
  const value = altered(sound, response.where ?? {});
  if (value === undefined) return void response.writeHead(status, { "content-length": 0, ...headers }).end();
  const [body, type] = typeof value === "string" ? [value, "text/html; charset=utf-8"] : [JSON.stringify(value), "application/json"];
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body), ...headers }).end(body);
}

function readBody(request, then) {
  let text = "";
  request.setEncoding("utf8").on("data", (part) => (text.length < 1e6 ? (text += part) : request.destroy())).on("end", () => then(text));
}

// Reads the install folder at each request: if another version replaces it, this server serves that client.
function page(response) {
  try {
    const html = fs.readFileSync(path.join(root, CLIENT, "index.html"), "utf8");
    const now = JSON.parse(fs.readFileSync(path.join(root, "package.json"))).version;
    send(response, 200, html.replaceAll("__VERSION__", now));
  } catch {
    send(response, 404);
  }
}

function sessionState(state, request, response) {
  const policy = isLoopback(state) ? "loopback-browser" : "remote-reachable";
  const description = { policy, bootstrapMethods: ["one-time-token"], sessionMethods: ["browser-session-cookie", ...(generation.native ? ["bearer-access-token", "dpop-access-token"] : [])], sessionCookieName: cookieName(state) };
  let found = null;
  try {
    found = auth.session(state.database, state.baseDir, tokenOf(state, request));
  } catch {
    found = null; // the table has another schema: no session is authenticated
  }
  if (!found || fault("session_not_authenticated", state)) return send(response, 200, { authenticated: false, auth: description });
  send(response, 200, { authenticated: true, auth: description, sessionMethod: "browser-session-cookie", ...auth.shown(found.granted), expiresAt: found.expires });
}

const invalid = (reason) => ({ _tag: "EnvironmentAuthInvalidError", code: "auth_invalid", reason, traceId: crypto.randomUUID() });

function exchange(state, text, response) {
  if (fault("pairing_500", state)) return send(response, 500);
  let credential;
  try {
    if (text === "") return auth.old ? send(response, 400, { error: "Invalid request body." }) : send(response, 400);
    credential = JSON.parse(text).credential;
    if (typeof credential !== "string") throw new Error("no credential");
  } catch {
    return auth.old ? send(response, 400, { error: "Invalid request body." }) : send(response, generation.pairing.badJson);
  }
  if (fault("second_pairing_fails", state) && state.paired) return send(response, 500, { error: "Failed to validate bootstrap credential." });
  let granted, issued;
  try {
    granted = auth.consume(state.database, credential);
    issued = granted && auth.issue(state.database, state.baseDir, granted);
  } catch (error) {
    fail(error);
    return send(response, 500, { error: "Failed to validate bootstrap credential." });
  }
  if (granted === null) {
    if (auth.old) return send(response, 401, { error: "Invalid bootstrap credential." });
    return send(response, 401, invalid("invalid_credential"));
  }
  state.paired = true;
  const { token, expires } = issued;
  const name = fault("wrong_cookie", state)?.name ?? (fault("wrong_cookie", state) ? "t3_other" : cookieName(state));
  const cookie = `${name}=${token}; Path=/; Expires=${new Date(expires).toUTCString()}; HttpOnly; SameSite=Lax`;
  const cookies = fault("no_cookie", state) ? [] : (fault("cookies", state)?.set ?? ["{}"]).map((text) => text.replace("{}", cookie));
  send(response, 200, { authenticated: true, ...auth.shown(granted), expiresAt: expires }, { "set-cookie": cookies });
}

function bearer(state, request, text, response) {
  const { field, formOnly } = generation.bearer;
  const isForm = (request.headers["content-type"] ?? "").startsWith(FORM);
  if (formOnly && !isForm) return send(response, 415, `Unsupported content-type: ${request.headers["content-type"] ?? ""}`);
  try {
    const body = isForm ? Object.fromEntries(new URLSearchParams(text)) : JSON.parse(text);
    const granted = auth.consume(state.database, body.credential ?? body.subject_token ?? body.code ?? "");
    if (granted === null) return send(response, 401, { error: "Invalid bootstrap credential." });
    send(response, 200, { [field]: auth.issue(state.database, state.baseDir, granted).token, token_type: "Bearer" });
  } catch {
    send(response, 500, { error: "Failed to validate bootstrap credential." });
  }
}

function read(state, request, response, { show, headers }) {
  try {
    if (fault("snapshot_fails", state)) throw new Error("a row cannot be decoded");
    const found = auth.session(state.database, state.baseDir, tokenOf(state, request));
    if (!found) return send(response, 401, auth.old ? { error: "Unauthorized" } : invalid("missing_credential"));
    send(response, 200, show(state), headers);
  } catch {
    send(response, 500, { error: "Failed to load the snapshot." });
  }
}

function environment(state) {
  const identity = generation.identityCookie ? { environmentId: state.environmentId } : {};
  return { serverVersion: version, platform: { os: "linux" }, ...identity, ...generation.environment };
}

function handle(state, request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  response.where = { ...state, path: pathname };
  const answer = fault("answers", response.where);
  if (answer?.hangs) return;
  if (answer?.drips) return void setInterval(() => response.write(" "), 100);
  if (answer) return readBody(request, () => send(response, answer.status ?? 200, answer.text, answer.headers));
  const pairingPath = fault("renamed_endpoint", state)?.path ?? (auth.old ? "/api/auth/bootstrap" : generation.pairing.path);
  if (request.method === "POST") {
    if (pathname.startsWith("/__standin/")) return readBody(request, (text) => control(state, pathname, text, response, send));
    if (pathname === pairingPath && !fault("pairing_404", state)) return readBody(request, (text) => exchange(state, text, response));
    if (pathname === generation.bearer.path) return readBody(request, (text) => bearer(state, request, text, response));
    return readBody(request, () => send(response, 404));
  }
  if (pathname === "/.well-known/t3/environment") return send(response, 200, environment(state));
  if (pathname === "/api/auth/session" && generation.sessionDocument) return sessionState(state, request, response);
  if (pathname in generation.reads) return read(state, request, response, readers[generation.reads[pathname]]);
  page(response);
}

module.exports = { handle };
