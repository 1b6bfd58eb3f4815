// Deeds of bad builds, and of good but unusual ones. All are bounded.
const childProcess = require("node:child_process");
const fs = require("node:fs");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");
const { DatabaseSync } = require("node:sqlite");
const { Worker } = require("node:worker_threads");
const { databasePath, root, rules, userdata } = require("./behavior.js");
const children = require("./children.js");
const { log } = require("./log.js");

const MEGABYTE = 1024 * 1024;
const FOREVER_SECONDS = 120;
const BOMB = 'bomb() { if [ "$1" -gt 0 ]; then bomb $(($1 - 1)) & bomb $(($1 - 1)) & fi; sleep 60; }; bomb 11'; // 4,095 shells

const shell = (text, options = {}) => childProcess.spawn("/bin/sh", ["-c", text], { detached: true, stdio: "ignore", ...options }).unref();
const inBaseDir = (where, name) => path.join(where.baseDir, name);

function exits({ exit_code: code = 1 }) {
  log("a build that cannot go on", "ERROR");
  process.exit(code);
}

const hangs = () => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, FOREVER_SECONDS * 1000);

const logs = ({ text, level = "WARN" }) => log(text, level);

function runs_sql({ sql }, { database }) {
  for (const statement of sql) database.exec(statement);
}

// Damages the file of the live database, with or without an open connection.
function damages({ how, file: name }, where) {
  const file = name ? userdata(where.baseDir, name) : databasePath(where.baseDir);
  if (!fs.existsSync(file)) return;
  const { size } = fs.statSync(file);
  if (how === "page") {
    const descriptor = fs.openSync(file, "r+");
    fs.writeSync(descriptor, Buffer.alloc(4096, 0xa5), 0, 4096, Math.floor(size / 8192) * 4096);
    fs.closeSync(descriptor);
  } else if (how === "truncated") fs.truncateSync(file, Math.floor(size / 8192) * 4096);
  else if (how === "linked") {
    fs.renameSync(file, `${file}.moved`);
    fs.symlinkSync(`${path.basename(file)}.moved`, file);
  } else for (const part of ["", "-wal", "-shm"]) fs.rmSync(file + part, { force: true });
}

function takes_memory({ megabytes = 8192 }, where) {
  const held = (where.held ??= []);
  const take = () => {
    for (let count = 0; count < 4 && held.length * 32 < megabytes; count += 1) held.push(Buffer.alloc(32 * MEGABYTE, 1));
    if (held.length * 32 < megabytes) setTimeout(take, 10);
  };
  take();
}

// Writes a file or the output in blocks of 16 MB, or creates files in batches of 500.
function fills_disk({ files = 1, megabytes = 8192, output = false }, where) {
  const folder = inBaseDir(where, "filler");
  const content = Buffer.alloc(Math.min(16, megabytes / files) * MEGABYTE, "\n");
  const rounds = files > 1 ? files : megabytes / 16;
  fs.mkdirSync(folder, { recursive: true });
  const fill = (round) => {
    for (let count = 0; count < (files > 1 ? 500 : 1) && round < rounds; count += 1, round += 1)
      if (output) fs.writeSync(1, content);
      else fs.appendFileSync(path.join(folder, String(files > 1 ? round : 0)), content);
    if (round < rounds) setTimeout(fill, 1, round);
  };
  fill(0);
}

// Burns CPU on threads that serve no requests.
function burns({ threads = os.availableParallelism(), seconds = FOREVER_SECONDS }) {
  const work = `const end = Date.now() + ${seconds * 1000}; while (Date.now() < end);`;
  for (let count = 0; count < threads; count += 1) new Worker(work, { eval: true }).unref();
}

const forks = () => shell(BOMB);

// Starts an orphan in its own session that ignores SIGTERM; with `holds_output`, it keeps the server's log open.
function leaves_process({ holds_output: holds = false, ends_when_asked: ends = false }) {
  shell(`${ends ? "" : "trap '' TERM; "}setsid sleep ${FOREVER_SECONDS} &`, { stdio: holds ? "inherit" : "ignore" });
}

const starts_agent = ({ name = "codex" }) => children.agent(name);

const kills = ({ whom }) => process.kill(whom === "parent" ? process.ppid : -1, "SIGKILL");

const listens_too = (_, where) => net.createServer().listen(0, where.host).unref();

function deletes({ what }, where) {
  const doomed = what === "install" ? root : where.baseDir;
  for (const name of fs.readdirSync(doomed)) fs.rmSync(path.join(doomed, name), { recursive: true, force: true });
  fs.rmdirSync(doomed);
}

function plants({ what }, where) {
  const target = inBaseDir(where, `planted-${what}`);
  if (what === "fifo") return void childProcess.spawnSync("mkfifo", [target]);
  fs.writeFileSync(target, "#!/bin/sh\nid\n");
  fs.chmodSync(target, 0o4755);
}

const deeds = {
  burns, damages, deletes, exits, fills_disk, forks, hangs, keeps_cache_database, kills, leaves_process, listens_too, logs, plants, probes_agents,
  runs_sql, starts_agent, takes_memory, writes_files,
};

// Writes small files of a future build to the user's state: { "userdata/themes.json": "{}" }.
function writes_files({ files }, where) {
  for (const [name, text] of Object.entries(files)) fs.writeFileSync(inBaseDir(where, name), text);
}

// Creates a database that is not state: it has no ledger and is closed.
function keeps_cache_database({ name = "cache.sqlite" }, where) {
  const cache = new DatabaseSync(userdata(where.baseDir, name));
  cache.exec("pragma journal_mode = wal; create table if not exists entries (key text primary key, value blob)");
  cache.exec("insert or replace into entries values ('seen', 1)");
  cache.close();
}

// Repeatedly starts short children that read the versions of agents.
function probes_agents({ name = "codex", every_ms: every = 500, lives_ms: lives = 100 }) {
  const probe = () => setTimeout((child) => child.kill("SIGKILL"), lives, children.agent(name, ["--version"]));
  probe();
  setInterval(probe, every).unref();
}

// Runs the deeds of a moment: start, open, seeded, migration, opened, ready (the default), stop.
function commit(moment, where) {
  for (const rule of rules(where)) if (rule.fault in deeds && (rule.at ?? "ready") === moment) deeds[rule.fault](rule, where);
}

module.exports = { commit };
