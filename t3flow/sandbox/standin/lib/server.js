// `t3 serve`: migrations, the boot window, then the API.
const childProcess = require("node:child_process");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { inspect } = require("node:util");
const auth = require("./auth.js");
const activity = require("./activity/index.js");
const { behavior, fault, generation, userdata } = require("./behavior.js");
const { key, keyPath, open } = require("./database.js");
const { commit } = require("./deeds.js");
const { fail, log } = require("./log.js");
const { identify, terminalIsCompiled } = require("./installation.js");
const guard = require("./guard.js");
const monitor = require("./monitor.js");
const { handle } = require("./routes.js");
const { stop } = require("./stopping.js");
const { now } = require("./time.js");

const QR_CODE = "█▀▀▀▀▀█ ▄▀█ █▀▀▀▀▀█\n█ ███ █ ▀▄▄ █ ███ █\n█▄▄▄▄▄█ █ ▄ █▄▄▄▄▄█";
const BOOT_WINDOW_MS = behavior.boot_window_ms ?? 400;
const BUSY_PORT_MS = 1000;
const WITHOUT_TERMINAL_MS = 500;
const RECOVERS_MS = generation.recoversMs && (behavior.recovers_ms ?? generation.recoversMs);

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
  if (opened.migrations.length || generation.logsEmptyMigrations) {
    log("Migrations ran successfully");
    console.log(`  migrations: ${inspect(opened.migrations, { maxArrayLength: null, compact: opened.migrations.length < 7 })}`);
  }
  if (generation.native) log("Claude Agent CLI health check failed.\n  { errorTag: 'PlatformError' }", "WARN"); // harmless
  if (fault("log_noise", where)) log("plugin scan failed for 0 plugins; migration notes: none; warning: nothing failed", "WARN");
  if (fault("logs_migration_error", where)) log("migration 32 failed: no such column, continuing", "ERROR");
  key(where.baseDir);
  activity.takeOver?.(opened.database);
  const runtime = userdata(where.baseDir, "server-runtime.json");
  listen({ ...where, database: opened.database, environmentId: identify(where), runtime, startedAt: now(), ready: false });
}

function listen(state) {
  const port = state.port + (fault("listens_elsewhere", state) ? 1 : 0);
  const server = http.createServer((request, response) => {
    if (!state.ready) return; // requests in the boot window never get a response
    handle(state, request, response);
  });
  state.server = server;
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
    if (generation.native) {
      stopWhenAsked(state);
      guard.watch();
    }
    monitor.start(state);
    setTimeout(() => ready(state), BOOT_WINDOW_MS);
  });
}

function ready(state) {
  const origin = `http://${state.host}:${state.port}`;
  fs.writeFileSync(state.runtime, JSON.stringify({ version: 1, pid: process.pid, host: state.host, port: state.port, origin, startedAt: state.startedAt }));
  if (!generation.native) stopWhenAsked(state);
  state.ready = true;
  const crash = fault("crash_after", state) ?? fault("crash_loop", state);
  if (crash) setTimeout(() => process.exit(1), (crash.seconds ?? 0.2) * 1000);
  if (!terminalIsCompiled()) setTimeout(() => process.exit(1), WITHOUT_TERMINAL_MS);
  try {
    const link = auth.createLink(state.database, { owner: true });
    log("T3 Code server is ready.");
    console.log(`Connection string: ${origin}\nToken: ${link.credential}\nPairing URL: ${origin}/pair#token=${link.credential}`);
    if (generation.native) console.log(QR_CODE);
  } catch (error) {
    log(`startup token could not be issued: ${error.message}`, "DEBUG"); // an older build on a newer schema reaches this and keeps running
  }
  if (RECOVERS_MS !== null) setTimeout(() => recover(state), RECOVERS_MS);
  commit("ready", state);
}

function stopWhenAsked(state) {
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => stop(state));
}

// Ends the work of a killed server.
function recover(state) {
  if (state.stopping) return;
  try {
    activity.recover(state);
  } catch (error) {
    if (state.database.isTransaction) state.database.exec("rollback");
    log(`recovery of earlier work failed: ${error.message}`, "DEBUG");
  }
}

module.exports = { serve };
