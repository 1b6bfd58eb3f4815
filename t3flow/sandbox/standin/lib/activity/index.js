// How this generation stores its work: {start, end, stopped, recover}.
const { generation } = require("../behavior.js");

const modules = { sessions: "./sessions.js", sessionsAndTurns: "./sessions.js", runs: "./runs.js", journal: "./journal.js" };

module.exports = require(modules[generation.activity]);
