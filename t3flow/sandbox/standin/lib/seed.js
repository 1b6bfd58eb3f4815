// The first command that opens the live database of a later generation creates it from the previous generation's.
const fs = require("node:fs");
const path = require("node:path");
const { DatabaseSync } = require("node:sqlite");
const { databasePath, fault, generation, userdata } = require("./behavior.js");
const { commit } = require("./deeds.js");

function seed(where) {
  const target = databasePath(where.baseDir);
  if (fs.existsSync(target)) return; // created once, never refreshed
  const source = generation.seeds.map((name) => userdata(where.baseDir, name)).find((name) => fs.existsSync(name));
  if (source === undefined || fault("seeds_empty", where)) return;
  fs.mkdirSync(path.dirname(target), { recursive: true });
  const partial = `${target}.${process.pid}.partial`;
  copy(source, partial);
  try {
    fs.linkSync(partial, target); // another command may have created it first
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  } finally {
    fs.rmSync(partial);
  }
  commit("seeded", where);
}

// Copies all committed data in one read transaction, with concurrent writers.
function copy(source, target) {
  const database = new DatabaseSync(source, { readOnly: true, timeout: generation.busyTimeoutMs });
  try {
    database.exec(`vacuum into '${target.replaceAll("'", "''")}'`);
  } finally {
    database.close();
  }
}

module.exports = { seed };
