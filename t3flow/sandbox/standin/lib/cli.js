// The commands. Those that open the database first migrate it silently.
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const auth = require("./auth.js");
const { altered, fault, generation, version } = require("./behavior.js");
const { open } = require("./database.js");
const { fail } = require("./log.js");

const FLAGS = { "--base-dir": true, "--ttl": true, "--host": true, "--port": true, "--json": false, "--no-browser": false };

function parse(words) {
  const flags = {};
  const rest = [];
  for (let index = 0; index < words.length; index += 1) {
    const [flag, inline] = words[index].split(/=(.*)/s);
    if (!flag.startsWith("-")) rest.push(words[index]);
    else if (!(flag in FLAGS)) return { unknown: flag };
    else flags[flag.slice(2)] = FLAGS[flag] ? (inline ?? words[(index += 1)]) : true;
  }
  return { flags, rest };
}

function help(unknown) {
  console.log(`t3 ${version}\n\nUSAGE\n  t3 [command] [flags]\n\nCOMMANDS\n  serve   Run the server\n  auth    Manage pairing and sessions\n`);
  if (unknown) console.log(`Unrecognized flag: ${unknown}`);
}

function sessionHelp() {
  console.log("DESCRIPTION\n  Manage bearer sessions.\n\nSUBCOMMANDS\n  issue     Issue a scoped bearer access token.\n  list      List active sessions.\n  revoke    Revoke an active session.");
}

function say(sound, asJson, where) {
  const value = altered(sound, where);
  if (asJson) console.log(`${JSON.stringify(value, null, 2)}\n`);
  else console.log(value);
}

function authCommand(words, flags, where) {
  const { database } = open(where);
  try {
    const command = words.slice(1).join(" ");
    if (command === "pairing create") say(auth.createLink(database, { ttl: flags.ttl }), flags.json, where);
    else if (command === "pairing list") say(auth.listLinks(database), flags.json, where);
    else if (command === "session list") say(auth.listSessions(database), flags.json, where);
    else if (command === "session issue") {
      const { token, expires } = auth.issue(database, where.baseDir, auth.grantOf(true));
      say({ token, expiresAt: expires }, flags.json, where);
    } else if (words[1] === "session" && words[2] === "revoke" && generation.revokesSessions) {
      console.log(auth.revokeSession(database, words[3]) ? `Revoked session ${words[3]}.\n` : `No active session found for ${words[3]}.\n`);
    } else help();
  } finally {
    database.close();
  }
}

// Commands of later generations for users who run their own t3. `pair` opens and thus migrates the database.
function ownCommand([command], flags, where) {
  if (command !== "pair") return console.log(`t3 ${command}: nothing to do`);
  const { database } = open(where);
  console.log(`Pairing URL: http://127.0.0.1:${flags.port ?? 3773}/pair#token=${auth.createLink(database, { owner: true }).credential}`);
  database.close();
}

function printVersion() {
  if (fault("version_prints_nothing", { baseDir: "" })) return;
  console.log(`t3 v${fault("version_lies", { baseDir: "" })?.text ?? version}`);
}

// Ends or hangs a command before its work.
function prints(where) {
  const rule = fault("prints", where);
  if (!rule) return false;
  if (rule.text) console.log(rule.text);
  if (rule.hangs) setInterval(() => {}, 1e6);
  process.exitCode = rule.exit_code ?? 0;
  return true;
}

function main(words) {
  if (prints({ baseDir: "", command: words[0] })) return;
  if (words[0] === "--version") return printVersion();
  if (words[0] === "--help") return help();
  if (words.join(" ") === "auth session --help" && generation.revokesSessions) return sessionHelp();
  const { unknown, flags, rest } = parse(words);
  if (unknown) {
    help(unknown);
    process.exitCode = 1;
    return;
  }
  const where = { baseDir: path.resolve(flags["base-dir"] ?? path.join(os.homedir(), ".t3")), command: rest.join(" ") };
  if (rest[0] === "auth") {
    if (prints(where)) return;
    if (rest[2] === "create" && fault("mint_hangs", where)) return setInterval(() => {}, 1e6);
    try {
      if (rest[2] === "create" && fault("mint_fails", where)) throw new Error("pairing credential could not be created");
      return authCommand(rest, flags, where);
    } catch (error) {
      fail(error);
      process.exitCode = 1;
      return;
    }
  }
  if (generation.commands.includes(rest[0])) return ownCommand(rest, flags, where);
  if (rest[0] !== "serve" && rest[0] !== undefined && !generation.unknownCommandIsFolder) {
    console.log(`Unknown command: ${rest[0]}`);
    process.exitCode = 1;
    return;
  }
  if (rest[0] !== "serve" && rest[0] !== undefined) fs.mkdirSync(rest[0], { recursive: true }); // the argument is a working folder
  require("./server.js").serve({ ...where, command: "serve", host: flags.host ?? "127.0.0.1", port: Number(flags.port ?? 3773) });
}

module.exports = { main };
