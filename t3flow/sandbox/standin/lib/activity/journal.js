// Work in a form that no updater knows: tables with other names, without the former ones.
const crypto = require("node:crypto");
const { now } = require("../time.js");

const MIGRATION = "WorkJournal";
const BEFORE = ["orchestration_v2_projection_runs", "orchestration_v2_effect_outbox", "scheduled_tasks", "projection_thread_sessions", "provider_session_runtime"];

function replaceTables(database) {
  if (database.prepare("select 1 from sqlite_master where name = 'journal_work'").get()) return false;
  database.exec("create table journal_work (item text primary key, thread text not null, phase integer not null, opened text not null, closed text)");
  for (const table of BEFORE) database.exec(`drop table if exists ${table}`);
  return true;
}

function start({ database }, { thread = crypto.randomUUID() }) {
  const turn = crypto.randomUUID();
  database.prepare("insert into journal_work (item, thread, phase, opened) values (?, ?, 1, ?)").run(turn, thread, now());
  return { turn, thread };
}

const end = ({ database }, { turn }) => void database.prepare("update journal_work set phase = 2, closed = ? where item = ?").run(now(), turn);
const stopped = ({ database }) => void database.prepare("update journal_work set phase = 3, closed = ? where phase = 1").run(now());

module.exports = { MIGRATION, end, recover: stopped, replaceTables, start, stopped };
