// xterm makes <style> elements of its own; the page's policy takes those only with its nonce.

const { nonce } = document.querySelector<HTMLMetaElement>("meta[name=csp-nonce]") ?? { nonce: "" };
const create = document.createElement;

document.createElement = function (this: Document, name: string, options?: ElementCreationOptions) {
  const element = create.call(this, name, options);
  if (name === "style" && nonce) element.nonce = nonce;
  return element;
} as typeof document.createElement;
