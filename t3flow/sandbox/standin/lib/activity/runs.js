// Work since October 2026: sequential runs of a thread, effects, and scheduled tasks.
const crypto = require("node:crypto");
const { fault } = require("../behavior.js");
const { now } = require("../time.js");

const LIVE = "('preparing', 'starting', 'running', 'waiting')";

function start({ database }, { thread = crypto.randomUUID(), status = "running", queueHeld }) {
  const { ordinal } = database.prepare("select coalesce(max(ordinal), 0) + 1 as ordinal from orchestration_v2_projection_runs where thread_id = ?").get(thread);
  const turn = `run:thread:${thread}:ordinal:${ordinal}`;
  const at = now();
  const payload = {
    id: turn, threadId: thread, ordinal, providerInstanceId: "codex", status, requestedAt: at, completedAt: null,
    startedAt: status === "queued" ? null : at, queuePosition: status === "queued" ? 1 : null, ...(queueHeld === undefined ? {} : { queueHeld }),
  };
  database
    .prepare("insert into orchestration_v2_projection_runs (run_id, thread_id, ordinal, provider, status, requested_at, payload_json, provider_instance_id) values (?, ?, ?, 'codex', ?, ?, ?, 'codex')")
    .run(turn, thread, ordinal, status, at, JSON.stringify(payload));
  return { turn, thread };
}

function finish(database, turn, status) {
  database
    .prepare("update orchestration_v2_projection_runs set status = ?1, completed_at = ?2, payload_json = json_set(payload_json, '$.status', ?1, '$.completedAt', ?2) where run_id = ?3")
    .run(status, now(), turn);
}

const end = ({ database }, { turn }, { status = "completed" } = {}) => finish(database, turn, status);

function cancelLive(database, before) {
  const live = database.prepare(`select run_id from orchestration_v2_projection_runs where status in ${LIVE} and requested_at < ?`).all(before);
  for (const { run_id: turn } of live) finish(database, turn, "cancelled");
}

// A stop cancels running work before the process exits.
const stopped = ({ database }) => cancelLive(database, "9999");

// Cancels the work of a killed server and holds its queues until the user resumes them, in one transaction.
function recover(state) {
  const { database, startedAt } = state;
  database.exec("begin immediate");
  cancelLive(database, startedAt);
  if (fault("recovery_drops_queued", state)) database.exec("delete from orchestration_v2_projection_runs where status = 'queued'");
  database
    .prepare("update orchestration_v2_projection_runs set payload_json = json_set(payload_json, '$.queueHeld', json('true')) where status = 'queued' and requested_at < ?")
    .run(startedAt);
  database.exec("commit");
}

// Starts or ends an effect.
function effect({ database }, { effect: id = crypto.randomUUID(), status = "running", thread = crypto.randomUUID() }) {
  const completed = ["pending", "running"].includes(status) ? null : now();
  database
    .prepare(
      `insert into orchestration_v2_effect_outbox (effect_id, command_id, thread_id, effect_type, payload_json, status, available_at, created_at, updated_at, completed_at)
       values (?, ?, ?, 'checkpoint.capture', '{"type":"checkpoint.capture"}', ?, ?, ?, ?, ?)
       on conflict (effect_id) do update set status = excluded.status, updated_at = excluded.updated_at, completed_at = excluded.completed_at`,
    )
    .run(id, `command:${id}`, thread, status, now(), now(), now(), completed);
  return { effect: id };
}

// Schedules a task that is due in `in_seconds`.
function schedule({ database }, { task = crypto.randomUUID(), in_seconds: seconds = 60, enabled = true }) {
  database
    .prepare(
      `insert into scheduled_tasks (task_id, title, prompt, enabled, schedule_json, project_id, workspace_strategy_json, model_selection_json, runtime_mode,
         interaction_mode, created_by, creation_source, created_at, updated_at, next_run_at, last_run_status, run_count)
       values (?, 'each day', 'look', ?, '{}', 'project', '{}', '{}', 'full-access', 'default', 'user', 'web', ?, ?, ?, 'never', 0)
       on conflict (task_id) do update set enabled = excluded.enabled, next_run_at = excluded.next_run_at, updated_at = excluded.updated_at`,
    )
    .run(task, enabled ? 1 : 0, now(), now(), new Date(Date.now() + seconds * 1000).toISOString());
  return { task };
}

// Imports the work of the previous generation once, thread by thread.
function takeOver(database) {
  database.exec(`
    insert or ignore into orchestration_v2_legacy_imports (thread_id, source_updated_at, shell_imported_at)
      select thread_id, updated_at, updated_at from projection_threads;
    insert or ignore into orchestration_v2_projection_threads
      (thread_id, project_id, title, default_provider, runtime_mode, interaction_mode, created_at, updated_at, archived_at, deleted_at, payload_json)
      select thread_id, project_id, title, 'codex', runtime_mode, interaction_mode, created_at, updated_at, archived_at, deleted_at,
        json_object('id', thread_id, 'projectId', project_id, 'title', title, 'creationSource', 'legacy') from projection_threads`);
}

module.exports = { effect, end, recover, schedule, start, stopped, takeOver };
