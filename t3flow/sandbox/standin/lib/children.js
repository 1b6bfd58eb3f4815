// Children of the server: agents, terminals, probes. The tracked ones end at a clean stop of the server and survive a kill.
const childProcess = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const kept = new Set();

function keep(child) {
  kept.add(child);
  child.on("exit", () => kept.delete(child));
  return child;
}

// Starts a long-lived child with the name, command line and folder of an agent.
function agent(name, words = ["100000"], options = {}) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "agent-"));
  const program = path.join(folder, path.basename(name));
  fs.symlinkSync("/bin/sleep", program);
  const said = words[0] === "100000" ? words : ["100000", ...words]; // sleep adds numbers only; other words are for the command line
  const child = childProcess.spawn(program, said.slice(0, 1), { argv0: [name, ...said.slice(1)].join(" "), stdio: "ignore", ...options });
  child.on("spawn", () => fs.rmSync(folder, { recursive: true, force: true }));
  return options.detached ? child : keep(child);
}

// Starts an orphaned agent in its own session: only the end of the whole unit ends it.
function orphan(name) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "agent-"));
  const program = path.join(folder, path.basename(name));
  fs.symlinkSync("/bin/sleep", program);
  const text = '"$0" 100000 >/dev/null 2>&1 </dev/null & echo $!';
  const { stdout } = childProcess.spawnSync("setsid", ["/bin/sh", "-c", text, program], { encoding: "utf8", timeout: 5000 });
  setTimeout(() => fs.rmSync(folder, { recursive: true, force: true }), 200).unref();
  return { pid: Number(stdout) };
}

// Starts a child that keeps the server's listening socket open after the server's end.
const holder = (server) => childProcess.spawn("/bin/sleep", ["100000"], { stdio: ["ignore", "ignore", "ignore", server._handle.fd] });

const terminal = (command) => keep(childProcess.spawn("/bin/sh", ["-c", '"$@"; :', "sh", ...command], { stdio: "ignore", detached: false }));

function endAll() {
  for (const child of kept) child.kill("SIGKILL");
}

module.exports = { agent, endAll, holder, orphan, terminal };
