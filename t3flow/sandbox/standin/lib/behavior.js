// The faults of this build and their conditions, from the package's `behavior.json`.
const fs = require("node:fs");
const path = require("node:path");
const { DatabaseSync } = require("node:sqlite");
const { choose } = require("./generations.js");

const root = path.join(__dirname, "..");
const version = JSON.parse(fs.readFileSync(path.join(root, "package.json"))).version;
const behavior = JSON.parse(fs.readFileSync(path.join(root, "behavior.json")));
const generation = choose(behavior);
const schemaLevel = behavior.schema_level ?? generation.level;

const userdata = (baseDir, name) => path.join(baseDir, "userdata", name);

// The path of the live database, which may be outside `userdata`.
function databasePath(baseDir) {
  const elsewhere = (behavior.rules ?? []).find((rule) => rule.fault === "database_elsewhere");
  return elsewhere ? path.join(baseDir, elsewhere.folder ?? "data", generation.live) : userdata(baseDir, generation.live);
}

function asked(baseDir, sql) {
  const file = [databasePath(baseDir), ...generation.seeds.map((name) => userdata(baseDir, name))].find((name) => fs.existsSync(name));
  if (file === undefined) return false;
  const database = new DatabaseSync(file, { readOnly: true });
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
  command: (wanted, { command }) => command === wanted,
  path: (wanted, { path: requested }) => requested === wanted,
  started_before: (wanted, { startedBefore }) => Boolean(startedBefore) === wanted,
  database_has_thread: (wanted, { baseDir }) => asked(baseDir, `select 1 from projection_threads where thread_id = ${quoted(wanted)}`),
  database_has_project_title: (wanted, { baseDir }) => asked(baseDir, `select 1 from projection_projects where title = ${quoted(wanted)}`),
  sql: (wanted, { baseDir }) => asked(baseDir, wanted),
};

const holds = (rule, where) => Object.entries(rule.when ?? {}).every(([key, wanted]) => conditions[key](wanted, where));

// Returns the rules that apply. `where` is {baseDir, port, command, path, startedBefore}; keys may be missing.
const rules = (where) => (behavior.rules ?? []).filter((rule) => holds(rule, where));

// Returns the rule of a fault if it applies, else undefined.
const fault = (name, where) => rules(where).find((rule) => rule.fault === name);

// Returns the JSON of a command or request, changed by the rule `alters`.
function altered(value, where) {
  const rule = typeof value === "object" && !Array.isArray(value) ? fault("alters", where) : undefined;
  if (!rule) return value;
  const changed = { ...value, ...rule.json };
  for (const key of rule.without ?? []) delete changed[key];
  return changed;
}

module.exports = { altered, behavior, databasePath, fault, generation, root, rules, schemaLevel, userdata, version };
