// The launcher: runs the program of this platform's package and waits until it ends.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { dirname, join } from "node:path";

const require = createRequire(import.meta.url);
const { rules = [] } = JSON.parse(readFileSync(new URL("./behavior.json", import.meta.url)));
const words = process.argv.slice(2);
const fault = (name) => rules.find((rule) => rule.fault === name && (rule.when?.command ?? words[0]) === words[0]);

function executable(platform) {
  try {
    return join(dirname(require.resolve(`@t3code/t3-${platform}/package.json`)), "t3");
  } catch {
    console.error(`t3: no T3 Code CLI build is available for this platform (${platform}).`);
    return null;
  }
}

const program = executable(`${process.platform}-${process.arch}`);
if (program === null) process.exit(1);
if (fault("launcher_title")) process.title = fault("launcher_title").title ?? "t3-launcher";
if (fault("launcher_ignores_sigterm")) process.on("SIGTERM", () => {});
const [command, argv] = fault("launcher_detaches") ? ["setsid", ["--wait", program, ...words]] : [program, words];
const env = { T3_STANDIN_NODE: process.execPath, ...process.env };
const ended = spawnSync(command, argv, { stdio: "inherit", env });
const { stays_s: stays = 0 } = fault("launcher_ignores_sigterm") ?? {};
if (stays) await new Promise((done) => setTimeout(done, stays * 1000));
if (ended.error) console.error(`t3: ${program}: ${ended.error.message}`);
process.exit(ended.error ? 1 : (ended.status ?? 128 + constants.signals[ended.signal]));
