// The rows of the database, as the read endpoints return them.
const crypto = require("node:crypto");
const { fault, generation } = require("./behavior.js");
const { now } = require("./time.js");

const V2_THREADS = "orchestration_v2_projection_threads";
const threadsTable = generation.activity === "runs" ? V2_THREADS : "projection_threads";
const PRESENT = "deleted_at is null and archived_at is null";

const all = (state, table, where = "1") => state.database.prepare(`select * from ${table} where ${where}`).all();
const sequence = (state) => all(state, "(select coalesce(max(sequence), 0) as newest from orchestration_events)")[0].newest;

// Omits rows, for a faulty read endpoint.
function shown(state, rows) {
  const hides = fault("shell_hides_rows", state);
  return hides ? rows.slice(0, Math.max(0, rows.length - (hides.count ?? 1))) : rows;
}

const project = (row) => ({ id: row.project_id, title: row.title, workspaceRoot: row.workspace_root, createdAt: row.created_at, updatedAt: row.updated_at });
const thread = (row) => ({
  id: row.thread_id, projectId: row.project_id, title: row.title, createdAt: row.created_at, updatedAt: row.updated_at, archivedAt: row.archived_at,
});

const kept = (state) => (fault("hides_deleted", state) ? "deleted_at is null" : "1");

function snapshot(state) {
  return {
    projects: all(state, "projection_projects", kept(state)),
    threads: all(state, "projection_threads", kept(state)),
    messages: all(state, "projection_thread_messages"),
  };
}

// Later builds return threads without messages.
function snapshotWithoutMessages(state) {
  return {
    snapshotSequence: sequence(state),
    projects: all(state, "projection_projects", kept(state)).map(project),
    threads: all(state, "projection_threads", kept(state)).map((row) => ({ ...thread(row), messages: [] })),
    updatedAt: now(),
  };
}

function shell(state) {
  return {
    snapshotSequence: sequence(state),
    projects: shown(state, all(state, "projection_projects", "deleted_at is null")).map(project),
    threads: shown(state, all(state, "projection_threads", PRESENT)).map(thread),
    updatedAt: now(),
  };
}

function shellV2(state) {
  return {
    schemaVersion: 2,
    snapshotSequence: sequence(state),
    threads: shown(state, all(state, V2_THREADS, PRESENT)).map(thread),
    archivedThreads: all(state, V2_THREADS, "deleted_at is null and archived_at is not null").map(thread),
    projects: shown(state, all(state, "projection_projects", "deleted_at is null")).map(project),
  };
}

const threadsV3 = (state) => ({ items: all(state, threadsTable).map(thread) });

// The content and headers of each read endpoint. All accept any session.
const readers = {
  snapshot: { show: snapshot },
  snapshotWithoutMessages: { show: snapshotWithoutMessages },
  shell: { show: shell },
  shellV2: { show: shellV2, headers: { "x-t3-orchestration-protocol": "2" } },
  threadsV3: { show: threadsV3 },
};

// Creates a project with a thread, like a user.
function addThread({ database }, { title = "a new thread" }) {
  const [projectId, id, at] = [crypto.randomUUID(), crypto.randomUUID(), now()];
  database
    .prepare("insert into projection_projects (project_id, title, workspace_root, scripts_json, created_at, updated_at) values (?, ?, '/', '[]', ?, ?)")
    .run(projectId, title, at, at);
  const more = threadsTable === V2_THREADS ? ["default_provider, payload_json, runtime_mode, interaction_mode", "'codex', '{}', 'full-access', 'default'"] : ["runtime_mode", "'full-access'"];
  database
    .prepare(`insert into ${threadsTable} (thread_id, project_id, title, created_at, updated_at, ${more[0]}) values (?, ?, ?, ?, ?, ${more[1]})`)
    .run(id, projectId, title, at, at);
  return { thread: id, project: projectId };
}

module.exports = { addThread, readers };
