// What this build does wrong, and to whom. `behaviour.json` is put into the package when it is packed.
const fs = require("node:fs");
const path = require("node:path");
const { DatabaseSync } = require("node:sqlite");

const root = path.join(__dirname, "..");
const version = JSON.parse(fs.readFileSync(path.join(root, "package.json"))).version;
const behaviour = JSON.parse(fs.readFileSync(path.join(root, "behaviour.json")));
const schemaLevel = behaviour.schema_level ?? 32;

const databasePath = (baseDir) => path.join(baseDir, "userdata", "state.sqlite");

function asked(baseDir, sql) {
  if (!fs.existsSync(databasePath(baseDir))) return false;
  const database = new DatabaseSync(databasePath(baseDir), { readOnly: true });
  try {
    return database.prepare(sql).get() !== undefined;
  } catch {
    return false;
  } finally {
    database.close();
  }
}

const quoted = (text) => `'${String(text).replaceAll("'", "''")}'`;

const conditions = {
  base_dir_contains: (wanted, { baseDir }) => baseDir.includes(wanted),
  user: (wanted, { baseDir }) => path.basename(path.dirname(baseDir)) === wanted,
  not_scratch: (wanted, { baseDir }) => (path.basename(baseDir) === ".t3") === wanted,
  port_not: (wanted, { port }) => port !== undefined && port !== wanted,
  database_has_thread: (wanted, { baseDir }) => asked(baseDir, `select 1 from projection_threads where thread_id = ${quoted(wanted)}`),
  database_has_project_title: (wanted, { baseDir }) => asked(baseDir, `select 1 from projection_projects where title = ${quoted(wanted)}`),
  sql: (wanted, { baseDir }) => asked(baseDir, wanted),
};

// The rule for a fault that applies here, or undefined. `where` is {baseDir, port}.
function fault(name, where) {
  return (behaviour.rules ?? []).find(
    (rule) => rule.fault === name && Object.entries(rule.when ?? {}).every(([key, wanted]) => conditions[key](wanted, where)),
  );
}

module.exports = { behaviour, databasePath, fault, root, schemaLevel, version };
