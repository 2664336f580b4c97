// Keeps a WebSocket open. The middleware closes it when the session ends, wherever that was asked for.

const SESSION_ENDED = 1008; // RFC 6455, 7.4.1: a policy is violated

const socket = new WebSocket(`ws://${location.host}/live`);
socket.onclose = (event) => {
  if (event.code === SESSION_ENDED) location.replace("/");
};
// While the page is on its way to the provider, to sign out, nothing may lead elsewhere.
addEventListener("beforeunload", () => { socket.onclose = null; });
