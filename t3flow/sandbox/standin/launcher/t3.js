#!/usr/bin/env node
// Any Node from 18 on runs this: the program itself is in the platform package.
import("../dist/bin.mjs");
