// Keeps the files of the page, so that it works without a connection after the first visit, and answers with the headers
// that a page needs for threads, which a host of files mostly does not send. The line below is filled in when the page
// is written: a name that changes with the files, and their list.
const { version, files } = /*SITE*/ { version: "", files: [] };

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches.open(version).then((cache) => cache.addAll(files.map((file) => new Request(file, { cache: "reload" })))),
  );
  self.skipWaiting();
});
self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches.keys().then((names) => Promise.all(names.filter((name) => name !== version).map((name) => caches.delete(name)))),
  );
  self.clients.claim();
});
self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith(
    caches.match(event.request, { ignoreSearch: true }).then(async (kept) => isolated(kept ?? (await fetch(event.request)))),
  );
});

function isolated(response) {
  if (response.status === 0) return response; // of another host, or a redirection
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
