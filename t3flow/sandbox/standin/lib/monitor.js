// The resource monitor of a native server. It ends when its input is closed, as by the server's end.
const childProcess = require("node:child_process");
const path = require("node:path");
const { fault, generation, root } = require("./behavior.js");

function start(state) {
  if (!generation.native || fault("no_monitor", state)) return;
  const mode = fault("monitor_spins", state) ? "spins" : fault("monitor_outlives", state) ? "outlives" : "";
  const program = path.join(root, "resource-monitor", `${process.platform}-${process.arch}`, "t3-resource-monitor");
  const child = childProcess.spawn(program, { stdio: ["pipe", "ignore", "ignore"], env: { ...process.env, T3_STANDIN_MONITOR: mode } });
  child.on("error", () => {});
  child.stdin.on("error", () => {});
  const restarts = fault("monitor_restarts", state);
  if (restarts) setTimeout(() => child.kill("SIGKILL"), (restarts.seconds ?? 0.5) * 1000).unref();
  child.on("exit", () => setTimeout(() => start(state), 100).unref());
}

module.exports = { start };
