// node .ci/wasm.mjs MODULE
// Runs a module of wasm32-unknown-unknown that needs nothing of its host, and fails if it traps.
import { readFileSync } from "node:fs";

const module = new WebAssembly.Module(readFileSync(process.argv[2]));
const imports = WebAssembly.Module.imports(module);
if (imports.length > 0) throw new Error(`imports: ${JSON.stringify(imports)}`);
const { main } = new WebAssembly.Instance(module, {}).exports;
const code = main(0, 0);
if (code !== 0) throw new Error(`main: ${code}`);
console.log("trained, saved, restored and predicted");
