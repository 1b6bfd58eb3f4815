// `t3 serve`: migrations, a socket that for a moment accepts and does not answer, then the API.
const childProcess = require("node:child_process");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const auth = require("./auth.js");
const { behaviour, fault } = require("./behaviour.js");
const { key, keyPath, now, open } = require("./database.js");
const { commit } = require("./deeds.js");
const { fail, log } = require("./log.js");
const { handle } = require("./routes.js");
const turns = require("./turns.js");

const BOOT_WINDOW_MS = behaviour.boot_window_ms ?? 400;
const BUSY_PORT_MS = 1000;

function serve(asked) {
  const where = { ...asked, startedBefore: fs.existsSync(keyPath(asked.baseDir)) };
  commit("start", where);
  if (where.baseDir.startsWith("/proc/") || fault("hang_at_start", where)) return void setInterval(() => {}, 1e6);
  const delay = (fault("slow_start", where)?.seconds ?? 0) * 1000;
  setTimeout(() => start(where), delay);
}

function start(where) {
  childProcess.spawnSync(process.env.SHELL ?? "/bin/sh", ["-lc", "printf %s \"$PATH\""], { timeout: 5000, stdio: "ignore" });
  let opened;
  try {
    const marker = path.join(where.baseDir, "userdata", "stand-in-started");
    opened = open(where, log);
    if (fault("second_start_fails", where) && fs.existsSync(marker)) throw new Error("migration ledger is inconsistent");
    if (fault("second_start_fails", where)) fs.writeFileSync(marker, "");
  } catch (error) {
    fail(error);
    process.exit(1);
  }
  log("Migrations ran successfully");
  console.log(`  migrations: [${opened.migrations.map((name) => ` '${name}'`).join(",")}${opened.migrations.length ? " " : ""}]`);
  if (fault("log_noise", where)) log("plugin scan failed for 0 plugins; migration notes: none; warning: nothing failed", "WARN");
  if (fault("logs_migration_error", where)) log("migration 32 failed: no such column, continuing", "ERROR");
  key(where.baseDir);
  listen({ ...where, database: opened.database, startedAt: now(), ready: false });
}

function listen(state) {
  const port = state.port + (fault("listens_elsewhere", state) ? 1 : 0);
  const server = http.createServer((request, response) => {
    if (!state.ready) return; // what is sent in the boot window is never answered
    handle(state, request, response);
  });
  server.on("error", (error) => {
    setTimeout(() => {
      fail(error);
      process.exit(1);
    }, BUSY_PORT_MS);
  });
  if (fault("closes_connections", state)) server.on("connection", (connection) => connection.destroy());
  if (fault("speaks_no_http", state)) server.on("connection", (connection) => connection.end("SSH-2.0-stand-in\r\n"));
  server.listen(port, state.host, () => {
    log(`Listening on http://${state.host}:${state.port}`);
    setTimeout(() => ready(state), BOOT_WINDOW_MS);
  });
}

function ready(state) {
  const runtime = path.join(state.baseDir, "userdata", "server-runtime.json");
  const origin = `http://${state.host}:${state.port}`;
  fs.writeFileSync(runtime, JSON.stringify({ version: 1, pid: process.pid, host: state.host, port: state.port, origin, startedAt: state.startedAt }));
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => stop(state, runtime));
  state.ready = true;
  const crash = fault("crash_after", state) ?? fault("crash_loop", state);
  if (crash) setTimeout(() => process.exit(1), (crash.seconds ?? 0.2) * 1000);
  try {
    const link = auth.createLink(state.database, { owner: true });
    log("T3 Code server is ready.");
    console.log(`Connection string: ${origin}\nToken: ${link.credential}\nPairing URL: ${origin}/pair#token=${link.credential}`);
  } catch (error) {
    log(`startup token could not be issued: ${error.message}`, "DEBUG"); // an older build on a newer schema gets here and stays up
  }
  commit("ready", state);
}

function stop(state, runtime) {
  if (fault("ignores_sigterm", state)) return;
  const { seconds = 0, exit_code: code = 130, abruptly = false } = fault("stops_oddly", state) ?? {};
  if (abruptly) process.exit(code);
  if (seconds) return void setTimeout(() => end(state, runtime, code), seconds * 1000);
  end(state, runtime, code);
}

function end(state, runtime, code) {
  turns.endAll();
  try {
    state.database.close(); // checkpoints the log and removes it
    fs.rmSync(runtime, { force: true });
    commit("stop", { ...state, database: null });
  } finally {
    process.exit(code);
  }
}

module.exports = { serve };
