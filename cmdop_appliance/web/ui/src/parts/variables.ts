// Environment variables as people write them: a NAME=VALUE per line.

/** What the lines say; a line without a `=` is a name with an empty value. */
export function variablesOf(lines: string): Record<string, string> {
  return Object.fromEntries(
    lines.split("\n").map((line) => line.trimStart()).filter(Boolean).map((line) => {
      const [name = "", ...value] = line.split("=");
      return [name.trim(), value.join("=")];
    }),
  );
}

export function linesOf(variables: Record<string, string>): string {
  return Object.entries(variables).map((each) => each.join("=")).join("\n");
}
