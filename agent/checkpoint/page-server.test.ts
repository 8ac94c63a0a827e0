import { expect, test } from "vitest";

import { PAGE_SERVER_ADD_F, pageServerHeader } from "./page-server.ts";

test.each([
  [
    "4.1.1",
    24,
    (view: DataView) => (
      view.setUint32(4, 7, true),
      view.setBigUint64(8, 0x7f00n, true),
      view.setBigUint64(16, 0x601n, true)
    ),
  ],
  [
    "4.2.1",
    32,
    (view: DataView) => (
      view.setBigUint64(8, 7n, true),
      view.setBigUint64(16, 0x7f00n, true),
      view.setBigUint64(24, 0x601n, true)
    ),
  ],
] as const)("the header of CRIU %s", (version, bytes, fill) => {
  const view = new DataView(new ArrayBuffer(bytes));
  view.setUint32(0, (4 << 16) | PAGE_SERVER_ADD_F, true);
  fill(view);
  const header = pageServerHeader(version);
  expect(header.bytes).toBe(bytes);
  expect(header.decode(view)).toEqual({
    operation: PAGE_SERVER_ADD_F,
    pages: 7,
    address: 0x7f00,
    space: "1-6",
    hasContent: true,
  });
});
