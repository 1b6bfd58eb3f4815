// As the real one's does: throws away what is compiled, then fails without the headers of Node.
require("node:fs").rmSync(require("node:path").join(__dirname, "build"), { recursive: true, force: true });
console.error("gyp ERR! stack Error: no headers of this Node are installed");
process.exit(1);
