// Commands that one regrets on the wrong machines.

const RISKY = new RegExp(
  [
    String.raw`\brm\s+(?:\S+\s+)*-\w*[rRf]`, // rm -rf, rm dir -r
    String.raw`\b(?:mkfs|wipefs|shred|fdisk|parted|sgdisk)\b`,
    String.raw`\bdd\b.*\bof=`,
    String.raw`\b(?:shutdown|reboot|poweroff|halt)\b`,
    String.raw`>\s*/dev/(?!null\b|stdout\b|stderr\b|fd/|shm/)`,
    String.raw`\bdrop\s+(?:table|database|schema)\b`,
    String.raw`\b(?:killall|pkill)\b`,
    String.raw`\bch(?:mod|own)\s+(?:\S+\s+)*-\w*R`,
    String.raw`([\w:.]{1,20})\s*\(\)\s*\{[^}]*\1\s*\|\s*\1\s*&`, // :(){ :|:& };:
  ].join("|"),
  "i",
);

/** More machines than these are counted before anything runs there. */
export const MANY = 10;

/** True: shell text that looks as if it destroyed something, or stopped the machine. */
export const isRisky = (command: string): boolean => RISKY.test(command);

/** What a person is asked for first: nothing, a yes, or how many machines there are. */
export function askedFor(command: string, machines: number): "nothing" | "yes" | "count" {
  if (machines > MANY) return "count";
  return machines > 1 && isRisky(command) ? "yes" : "nothing";
}
