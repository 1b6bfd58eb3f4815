#!/usr/bin/env node
// Runs on Node 18 and newer; the program is in the platform package.
import("../dist/bin.mjs");
