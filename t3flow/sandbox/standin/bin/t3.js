#!/usr/bin/env node
// With an unsupported Node, the real t3 prints nothing and exits 0.
const [major, minor] = process.versions.node.split(".").map(Number);
if (major > 24 || (major === 24 && minor >= 10)) require("../lib/cli.js").main(process.argv.slice(2));
