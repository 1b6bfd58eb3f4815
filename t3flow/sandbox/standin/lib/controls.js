// Controls for tests, by POST below /__standin/. The real t3 has none of these paths.
const activity = require("./activity/index.js");
const children = require("./children.js");
const { generation } = require("./behavior.js");
const rows = require("./rows.js");

const PATIENCE_MS = 5000; // a control waits while a pairing writes, whatever the generation's busy timeout
const begun = new Map(); // turn → its state

function startTurn(state, asked) {
  const turn = activity.start(state, asked);
  begun.set(turn.turn, { ...turn, outlives: asked.agent_outlives_ms ?? 0, child: asked.agent ? children.agent(asked.agent) : null });
  return turn;
}

function endTurn(state, asked) {
  const found = begun.get(asked.turn);
  if (!found) return { error: "no such turn" };
  activity.end(state, found, asked);
  if (found.child) setTimeout(() => found.child.kill("SIGKILL"), found.outlives);
  begun.delete(asked.turn);
  return { turn: found.turn, thread: found.thread };
}

const kinds = {
  agent: (state, { name = "codex" }) => children.agent(name),
  orphan_agent: (state, { name = "codex" }) => children.orphan(name),
  socket: (state) => children.holder(state.server),
  idle: (state, { name = "codex" }) => children.agent(name),
  probe: (state, { name = "codex", lives_ms: lives = 200 }) => {
    const child = children.agent(name, ["--version"]);
    setTimeout(() => child.kill("SIGKILL"), lives);
    return child;
  },
};

function startChildren(state, asked) {
  const started = Array.from({ length: asked.count ?? 1 }, () => kinds[asked.kind ?? "agent"](state, asked).pid);
  return { pid: started[0], pids: started };
}

function onlyRuns(action) {
  return (state, asked) => (generation.activity === "runs" ? action(state, asked) : { error: "this generation has no such work" });
}

const actions = {
  "/__standin/turn/start": startTurn,
  "/__standin/turn/end": endTurn,
  "/__standin/terminal": (state, { command }) => ({ pid: children.terminal(command).pid }),
  "/__standin/child": startChildren,
  "/__standin/effect": onlyRuns((state, asked) => activity.effect(state, asked)),
  "/__standin/schedule": onlyRuns((state, asked) => activity.schedule(state, asked)),
  "/__standin/thread": (state, asked) => rows.addThread(state, asked),
};

function control(state, pathname, text, response, send) {
  if (!(pathname in actions)) return send(response, 404);
  const { timeout } = state.database.prepare("pragma busy_timeout").get();
  try {
    state.database.exec(`pragma busy_timeout = ${PATIENCE_MS}`);
    send(response, 200, actions[pathname](state, JSON.parse(text || "{}")));
  } catch (error) {
    send(response, 500, { error: error.message });
  } finally {
    state.database.exec(`pragma busy_timeout = ${timeout}`);
  }
}

module.exports = { control };
