// Work until 0.0.45: one session for each thread; from 0.0.42 on also a row for each turn.
const crypto = require("node:crypto");
const { generation } = require("../behavior.js");
const { now } = require("../time.js");

const LOST = "Provider session did not survive a server restart. Send a new message to continue.";
const keepsTurns = generation.activity === "sessionsAndTurns";

function write(database, thread, status, turn) {
  database
    .prepare(
      `insert into projection_thread_sessions (thread_id, status, provider_name, active_turn_id, updated_at, runtime_mode, provider_instance_id)
       values (?, ?, 'codex', ?, ?, 'full-access', 'codex')
       on conflict (thread_id) do update set status = excluded.status, active_turn_id = excluded.active_turn_id, updated_at = excluded.updated_at`,
    )
    .run(thread, status, turn, now());
}

function start({ database }, { thread = crypto.randomUUID(), status = "running" }) {
  const turn = crypto.randomUUID();
  write(database, thread, status, turn);
  if (keepsTurns)
    database
      .prepare("insert into projection_turns (thread_id, turn_id, state, requested_at, started_at, checkpoint_files_json) values (?, ?, 'running', ?, ?, '[]')")
      .run(thread, turn, now(), now());
  return { turn, thread };
}

function end({ database }, { turn, thread }) {
  write(database, thread, "ready", null);
  if (keepsTurns) database.prepare("update projection_turns set state = 'completed', completed_at = ? where turn_id = ?").run(now(), turn);
}

// A stop during a turn does not change the rows.
function stopped() {}

// Sets the work of a killed server to `error`, in builds that check for it.
function recover({ database, startedAt }) {
  const dead = database.prepare("select thread_id from projection_thread_sessions where status in ('starting', 'running') and updated_at < ?").all(startedAt);
  for (const { thread_id: thread } of dead) {
    write(database, thread, "error", null);
    database.prepare("update projection_thread_sessions set last_error = ? where thread_id = ?").run(LOST, thread);
    database.prepare("update projection_threads set updated_at = ? where thread_id = ?").run(now(), thread);
    if (keepsTurns) database.prepare("update projection_turns set state = 'error', completed_at = ? where thread_id = ? and state = 'running'").run(now(), thread);
  }
}

module.exports = { end, recover, start, stopped };
