// Checks experiment files with the language server that editors use. It needs npm and is no part of `make test`:
//
//     cd $(mktemp -d) && npm install yaml-language-server@1.25.0
//     oodkit schema > schema.json
//     node .../tools/check-schema.cjs schema.json .../experiments/*.yaml
const fs = require("fs"), path = require("path"), url = require("url");
const base = process.env.YLS || path.join(process.cwd(), "node_modules");
const need = (name) => require(path.join(base, name));
const { getLanguageService } = need("yaml-language-server/out/server/src/languageservice/yamlLanguageService.js");
const { TextDocument } = need("vscode-languageserver-textdocument");
const [schema, ...files] = process.argv.slice(2);
const uri = url.pathToFileURL(schema).href;
const service = getLanguageService({
  schemaRequestService: async (at) => fs.readFileSync(url.fileURLToPath(at), "utf8"),
  workspaceContext: { resolveRelativePath: (relative, resource) => url.resolve(resource, relative) },
  telemetry: { send() {}, sendError() {}, sendTrack() {} },
});
service.configure({ validate: true, customTags: ["!include scalar"], schemas: [{ uri, fileMatch: ["*.yaml"] }] });
(async () => {
  let wrong = 0;
  for (const file of files) {
    const text = TextDocument.create(url.pathToFileURL(path.resolve(file)).href, "yaml", 0, fs.readFileSync(file, "utf8"));
    for (const problem of await service.doValidation(text, false)) {
      wrong += 1;
      console.log(`${file}:${problem.range.start.line + 1}: ${problem.message}`);
    }
  }
  console.log(`${files.length} files, ${wrong} problems`);
  process.exit(wrong ? 1 : 0);
})();
