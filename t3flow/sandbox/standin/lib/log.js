// All logs of t3 go to stdout, including errors of commands.
const pad = (number, width = 2) => String(number).padStart(width, "0");
const clock = (date = new Date()) =>
  `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${pad(date.getMilliseconds(), 3)}`;

const log = (text, level = "INFO") => console.log(`[${clock()}] ${level} (#1): ${text}`);

function fail(error) {
  console.log(`[${clock()}] ERROR (#3): ${error.name}: ${error.message}`);
  if (error.code) console.log(`  [cause]: Error: ${error.code}: ${error.message}`);
}

module.exports = { fail, log };
