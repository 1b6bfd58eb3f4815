// The database: real SQLite in WAL mode, no busy timeout, migrated forward by whatever command opens it.
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { DatabaseSync } = require("node:sqlite");
const { databasePath, fault, schemaLevel } = require("./behaviour.js");
const { commit } = require("./deeds.js");
const level30 = require("./level30.json");

const NEWER = {
  31: ["AuthAuthorizationScopes", [
    "DROP TABLE auth_pairing_links",
    "DROP TABLE auth_sessions",
    `CREATE TABLE auth_pairing_links (
      id TEXT PRIMARY KEY, credential TEXT NOT NULL UNIQUE, method TEXT NOT NULL, scopes TEXT NOT NULL, subject TEXT NOT NULL,
      label TEXT, created_at TEXT NOT NULL, expires_at TEXT NOT NULL, consumed_at TEXT, revoked_at TEXT)`,
    `CREATE TABLE auth_sessions (
      session_id TEXT PRIMARY KEY, subject TEXT NOT NULL, scopes TEXT NOT NULL, method TEXT NOT NULL, client_label TEXT,
      client_ip_address TEXT, client_user_agent TEXT, client_device_type TEXT NOT NULL DEFAULT 'unknown', client_os TEXT,
      client_browser TEXT, issued_at TEXT NOT NULL, expires_at TEXT NOT NULL, last_connected_at TEXT, revoked_at TEXT)`,
    "CREATE INDEX idx_auth_pairing_links_active ON auth_pairing_links(revoked_at, consumed_at, expires_at)",
    "CREATE INDEX idx_auth_sessions_active ON auth_sessions(revoked_at, expires_at, issued_at)",
  ]],
  32: ["AuthPairingProofKeyThumbprint", ["ALTER TABLE auth_pairing_links ADD COLUMN proof_key_thumbprint TEXT"]],
  33: ["StandInExtraTable", ["CREATE TABLE stand_in_extra (id TEXT PRIMARY KEY, note TEXT)"]],
};

// What releases to come bring: one more table a level.
const later = (id) => [`StandInTable${id}`, [`CREATE TABLE stand_in_${id} (id TEXT PRIMARY KEY, note TEXT)`]];

const now = () => new Date().toISOString();
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
      const [name, statements] = NEWER[id] ?? later(id);
      if (fault("migration_throws", where)) throw new Error(`migration ${id}_${name} failed: constraint violated by existing rows`);
      for (const statement of statements) database.exec(statement);
      if (fault("migration_loses_rows", where)) database.exec("delete from projection_thread_messages where rowid % 2 = 0");
      insert().run(id, applied(), name);
      names.push(`${id}_${name}`);
    }
    if (level < schemaLevel) commit("migration", { ...where, database });
    database.exec("commit");
  } catch (error) {
    if (database.isTransaction) database.exec("rollback");
    throw error;
  }
  return names;
}

// Opens (makes, migrates) the database of a base dir: {database, migrations}. `log` hears what the migrations say.
function open(where, log = () => {}) {
  fs.mkdirSync(path.join(where.baseDir, "userdata"), { recursive: true });
  commit("open", where);
  const database = new DatabaseSync(databasePath(where.baseDir), { timeout: 0 });
  database.exec("pragma journal_mode = wal");
  database.exec("pragma foreign_keys = on");
  log("Running all migrations...");
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
