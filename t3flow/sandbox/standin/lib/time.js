// Times in the format of the real t3.
const now = () => new Date().toISOString();

module.exports = { now };
