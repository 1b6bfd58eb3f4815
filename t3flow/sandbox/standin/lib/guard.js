// A native server can outlive its launcher. To not outlive the sandbox, it ends when the supervisor is gone.
const supervisor = Number(process.env.T3FLOW_SANDBOX_SUPERVISOR);

function watch() {
  if (!supervisor) return;
  const look = () => {
    try {
      process.kill(supervisor, 0);
    } catch (error) {
      if (error.code === "ESRCH") process.exit(137);
    }
  };
  setInterval(look, 1000).unref();
}

module.exports = { watch };
