// The files of a server in its base dir besides the database, and those that it needs from its package.
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { fault, generation, root, userdata } = require("./behavior.js");

function madeOnce(file, text) {
  try {
    fs.writeFileSync(file, text, { flag: "wx", mode: 0o644 });
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  }
  return fs.readFileSync(file, "utf8").trim();
}

// Returns the user's environment-id.
function identify(where) {
  for (const folder of ["attachments", "themes", "logs"]) fs.mkdirSync(userdata(where.baseDir, folder), { recursive: true });
  for (const folder of ["caches", "worktrees"]) fs.mkdirSync(path.join(where.baseDir, folder), { recursive: true });
  if (fault("environment_id_changes", where)) fs.rmSync(userdata(where.baseDir, "environment-id"), { force: true });
  madeOnce(userdata(where.baseDir, "settings.json"), "{}\n");
  madeOnce(userdata(where.baseDir, "keybindings.json"), "[]\n");
  madeOnce(userdata(where.baseDir, "anonymous-id"), crypto.randomUUID());
  return madeOnce(userdata(where.baseDir, "environment-id"), crypto.randomUUID());
}

const terminalIsCompiled = () => !generation.native || fs.existsSync(path.join(root, "node_modules", "node-pty", "build", "Release", "pty.node"));

module.exports = { identify, terminalIsCompiled };
