// A native server outlives its launcher, and so it would outlive the sandbox: it ends when the sandbox's supervisor is gone.
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
