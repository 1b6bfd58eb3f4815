// The live database: SQLite in WAL mode. Any command that opens it migrates it.
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { DatabaseSync } = require("node:sqlite");
const { behavior, databasePath, fault, generation, rules, schemaLevel } = require("./behavior.js");
const { commit } = require("./deeds.js");
const journal = require("./activity/journal.js");
const level30 = require("./level30.json");
const newer = require("./levels.json");
const { seed } = require("./seed.js");
const { now } = require("./time.js");

// Future releases: one more table for each level.
const later = (id) => [`StandInTable${id}`, [`CREATE TABLE stand_in_${id} (id TEXT PRIMARY KEY, note TEXT)`]];

// Returns a migration: [name, statements]. A faulty build reuses an id under another name.
function migration(id, where) {
  const reused = rules(where).find((rule) => rule.fault === "ledger_reuses_id" && rule.id === id);
  if (!reused) return newer[id] ?? later(id);
  return [reused.name ?? "StandInReused", reused.sql ?? [`CREATE TABLE stand_in_reused_${id} (id TEXT PRIMARY KEY)`]];
}

const applied = () => now().slice(0, 19).replace("T", " ");

function migrate(database, where) {
  const names = [];
  const known = database.prepare("select 1 from sqlite_master where name = 'effect_sql_migrations'").get();
  database.exec("begin immediate");
  try {
    const insert = () => database.prepare("insert into effect_sql_migrations (migration_id, created_at, name) values (?, ?, ?)");
    if (!known) {
      for (const statement of level30.statements) database.exec(statement);
      for (const [id, name] of level30.migrations) insert().run(id, applied(), name), names.push(`${id}_${name}`);
    }
    const { level } = database.prepare("select max(migration_id) as level from effect_sql_migrations").get();
    for (let id = level + 1; id <= schemaLevel; id += 1) {
      const [name, statements] = migration(id, where);
      if (fault("migration_throws", where)) throw new Error(`migration ${id}_${name} failed: constraint violated by existing rows`);
      for (const statement of statements) database.exec(statement);
      if (fault("migration_loses_rows", where)) database.exec("delete from projection_thread_messages where rowid % 2 = 0");
      insert().run(id, applied(), name);
      names.push(`${id}_${name}`);
    }
    if (generation.activity === "journal" && journal.replaceTables(database)) {
      insert().run(Math.max(level, schemaLevel) + 1, applied(), journal.MIGRATION);
      names.push(`${Math.max(level, schemaLevel) + 1}_${journal.MIGRATION}`);
    }
    if (level < schemaLevel) commit("migration", { ...where, database });
    database.exec("commit");
  } catch (error) {
    if (database.isTransaction) database.exec("rollback");
    throw error;
  }
  return names;
}

// Opens, creates and migrates the database of a base dir: {database, migrations}. `log` receives messages of migrations.
function open(where, log = () => {}) {
  fs.mkdirSync(path.join(where.baseDir, "userdata"), { recursive: true });
  commit("open", where);
  seed(where);
  fs.mkdirSync(path.dirname(databasePath(where.baseDir)), { recursive: true });
  const database = new DatabaseSync(databasePath(where.baseDir), { timeout: behavior.busy_timeout_ms ?? generation.busyTimeoutMs });
  database.exec("pragma journal_mode = wal");
  database.exec("pragma foreign_keys = on");
  if (generation.logsEmptyMigrations) log("Running all migrations...");
  const migrations = migrate(database, where);
  commit("opened", { ...where, database });
  return { database, migrations };
}

const keyPath = (baseDir) => path.join(baseDir, "userdata", "secrets", "session-signing-key");

function key(baseDir) {
  const file = keyPath(baseDir);
  fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
  try {
    fs.writeFileSync(file, crypto.randomBytes(32), { mode: 0o600, flag: "wx" });
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  }
  return fs.readFileSync(file);
}

module.exports = { key, keyPath, now, open };
