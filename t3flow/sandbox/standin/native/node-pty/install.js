// As the real one's does where Node's headers are missing: throws away what is compiled, then fails. `npm install` leaves a bundled package alone.
if (["install", "ci"].includes(process.env.npm_command)) process.exit(0);
require("node:fs").rmSync(require("node:path").join(__dirname, "build"), { recursive: true, force: true });
console.error("gyp ERR! stack Error: no headers of this Node are installed");
process.exit(1);
