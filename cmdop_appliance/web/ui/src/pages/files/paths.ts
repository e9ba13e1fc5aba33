// Paths on machines: absolute, with slashes.

/** The directories above a path and itself: name and whole path. */
export function crumbs(path: string): { name: string; path: string }[] {
  const parts = path.split("/").filter(Boolean);
  return [{ name: "/", path: "/" }, ...parts.map((name, index) => ({ name, path: `/${parts.slice(0, index + 1).join("/")}` }))];
}

export const below = (directory: string, name: string): string => `${directory.replace(/\/$/, "")}/${name}`;

export const above = (path: string): string => path.replace(/\/[^/]*\/?$/, "") || "/";

const IMAGES: Record<string, string> = {
  png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif", webp: "image/webp", avif: "image/avif", bmp: "image/bmp", ico: "image/x-icon",
};

/** The media type of a picture that may be shown; null: it is none. (SVG is a document, and can do things.) */
export const imageType = (name: string): string | null => IMAGES[name.split(".").at(-1)!.toLowerCase()] ?? null;
