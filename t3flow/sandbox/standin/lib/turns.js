// Turns and what runs below the server. The paths under /__standin/ are for tests: the real t3 has none of them.
const childProcess = require("node:child_process");
const crypto = require("node:crypto");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { now } = require("./database.js");

const children = new Map(); // turn or terminal → child

// A long-lived child whose name, command line and folder say that it is an agent.
function agent(name) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "agent-"));
  const program = path.join(folder, path.basename(name));
  fs.symlinkSync("/bin/sleep", program);
  const child = childProcess.spawn(program, ["100000"], { argv0: name, stdio: "ignore" });
  child.on("spawn", () => fs.rmSync(folder, { recursive: true, force: true }));
  return child;
}

function write(state, thread, status, turn) {
  state.database
    .prepare(
      `insert into projection_thread_sessions (thread_id, status, provider_name, active_turn_id, updated_at, runtime_mode, provider_instance_id)
       values (?, ?, 'codex', ?, ?, 'full-access', 'codex')
       on conflict (thread_id) do update set status = excluded.status, active_turn_id = excluded.active_turn_id, updated_at = excluded.updated_at`,
    )
    .run(thread, status, turn, now());
}

function startTurn(state, { thread = crypto.randomUUID(), agent: name, agent_outlives_ms: outlives = 0 }) {
  const turn = crypto.randomUUID();
  write(state, thread, "running", turn);
  children.set(turn, { thread, outlives, child: name ? agent(name) : null });
  return { turn, thread };
}

function endTurn(state, { turn }) {
  const begun = children.get(turn);
  if (!begun) return { error: "no such turn" };
  write(state, begun.thread, "ready", null);
  if (begun.child) setTimeout(() => begun.child.kill("SIGKILL"), begun.outlives);
  children.delete(turn);
  return { turn, thread: begun.thread };
}

function startTerminal(state, { command }) {
  const child = childProcess.spawn("/bin/sh", ["-c", '"$@"; :', "sh", ...command], { stdio: "ignore", detached: false });
  children.set(crypto.randomUUID(), { child });
  return { pid: child.pid };
}

function control(state, pathname, text, response, send) {
  const actions = { "/__standin/turn/start": startTurn, "/__standin/turn/end": endTurn, "/__standin/terminal": startTerminal };
  try {
    if (!(pathname in actions)) return send(response, 404);
    send(response, 200, actions[pathname](state, JSON.parse(text || "{}")));
  } catch (error) {
    send(response, 500, { error: error.message });
  }
}

// An agent without a turn: it ends with the server.
const startAgent = (name) => children.set(crypto.randomUUID(), { child: agent(name) });

// A stop in mid-turn: the children die, and the turn's row stays as it is for ever.
function endAll() {
  for (const { child } of children.values()) child?.kill("SIGKILL");
}

module.exports = { control, endAll, startAgent };
