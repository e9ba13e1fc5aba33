// Builds ../static: index.html, and assets whose names carry their content. Twice the same sources
// make twice the same bytes. `--tests` builds the tests instead, for `node --test`.
import { build } from "esbuild";
import { readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const whole = join(here, "..", "static");
const out = `${whole}.new`; // what is served stays whole until all is built

const shared = {
  absWorkingDir: here,
  bundle: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: "warning",
};

if (process.argv.includes("--tests")) {
  const tests = (await readdir(join(here, "src"), { recursive: true })).filter((name) =>
    /\.test\.tsx?$/.test(name),
  );
  await rm(join(here, "build", "tests"), { recursive: true, force: true });
  await build({
    ...shared,
    entryPoints: tests.map((name) => join("src", name)),
    outdir: join("build", "tests"),
    outExtension: { ".js": ".mjs" },
    platform: "node",
    sourcemap: "inline",
  });
} else {
  await rm(out, { recursive: true, force: true });
  const { metafile } = await build({
    ...shared,
    entryPoints: { app: "src/main.tsx", style: "src/style.css", pages: "src/pages.css" },
    inject: ["src/shell.ts"],
    outdir: join(out, "assets"),
    entryNames: "[name]-[hash]",
    chunkNames: "[name]-[hash]",
    splitting: true,
    minify: true,
    legalComments: "none", // licenses.txt has them
    metafile: true,
  });
  const named = Object.fromEntries(
    Object.entries(metafile.outputs)
      .filter(([, output]) => output.entryPoint)
      .map(([path, output]) => [output.entryPoint, path.split("/").at(-1)]),
  );
  const page = (await readFile(join(here, "src", "index.html"), "utf8"))
    .replace("{{script}}", `/assets/${named["src/main.tsx"]}`)
    .replace("{{style}}", `/assets/${named["src/style.css"]}`)
    .replace("{{pages}}", `/assets/${named["src/pages.css"]}`);
  await writeFile(join(out, "index.html"), page);
  await writeFile(join(out, "assets", "licenses.txt"), await licenses(metafile));
  for (const name of ["icon.svg", "manifest.webmanifest"]) {
    await writeFile(join(out, "assets", name), await readFile(join(here, "src", name)));
  }
  for (const name of await readdir(join(out, "assets"))) {
    const path = join(out, "assets", name);
    await writeFile(`${path}.gz`, gzipSync(await readFile(path), { level: 9 }));
  }
  await rm(whole, { recursive: true, force: true });
  await rename(out, whole);
}

/** The licences of the packages whose code is in the page. */
async function licenses(metafile) {
  const names = new Set();
  for (const input of Object.keys(metafile.inputs)) {
    const match = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (match) names.add(match[1]);
  }
  const parts = [];
  for (const name of [...names].sort()) {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? await readFile(join(folder, file), "utf8") : `Licence: ${license}\n`;
    parts.push(`${name} ${version}\n\n${text.trim()}\n`);
  }
  return `${parts.join("\n────────\n\n")}`;
}
