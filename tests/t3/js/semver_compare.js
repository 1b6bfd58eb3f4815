// Answers questions about versions with npm's own semver: one JSON document a line in, one out.
// argv: npm's command. Its bundled semver is the copy that npm itself compares with.
//   {"texts": [TEXT…]}            -> [what semver makes of each, null for no version]
//   {"pairs": [[TEXT, TEXT]…]}    -> [-1 | 0 | 1 …]
'use strict'

const fs = require('fs')
const path = require('path')
const readline = require('readline')

const npmFolder = path.dirname(fs.realpathSync(process.argv[2]))
const besideWrapper = path.join(npmFolder, '../lib/node_modules/npm')
const semver = require(require.resolve('semver', { paths: [npmFolder, besideWrapper] }))

readline.createInterface({ input: process.stdin, crlfDelay: Infinity }).on('line', (line) => {
  const { texts, pairs } = JSON.parse(line)
  const answer = texts
    ? texts.map((text) => semver.valid(text))
    : pairs.map(([one, other]) => semver.compare(one, other))
  process.stdout.write(JSON.stringify(answer) + '\n')
})
