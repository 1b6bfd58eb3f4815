// Like the real script without Node's headers: deletes the compiled files, then fails. `npm install` does not run it for a bundled package.
if (["install", "ci"].includes(process.env.npm_command)) process.exit(0);
require("node:fs").rmSync(require("node:path").join(__dirname, "build"), { recursive: true, force: true });
console.error("gyp ERR! stack Error: no headers of this Node are installed");
process.exit(1);
