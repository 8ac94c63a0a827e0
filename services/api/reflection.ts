/** gRPC server reflection (v1 and v1alpha), from the descriptor set that `npm run proto` writes. */
import { readFileSync } from "node:fs";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import type { Server } from "@grpc/grpc-js";
import { ReflectionService } from "@grpc/reflection";

const DESCRIPTORS = new URL("../../proto/gen/godwit.binpb", import.meta.url);

export function addReflection(server: Server): void {
  // The service only reads the files' descriptors out of a package definition, so only those are given.
  const definition = {
    format: "Protocol Buffer 3 DescriptorProto",
    type: {},
    fileDescriptorProtos: fileDescriptors(readFileSync(DESCRIPTORS)),
  };
  const definitions = { godwit: definition } as unknown as ConstructorParameters<typeof ReflectionService>[0];
  new ReflectionService(definitions).addToServer(server);
}

/** The `file` fields of a FileDescriptorSet (google/protobuf/descriptor.proto), each as its encoded bytes. */
function fileDescriptors(set: Uint8Array): Buffer[] {
  const reader = new BinaryReader(set);
  const files: Buffer[] = [];
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1) files.push(Buffer.from(reader.bytes()));
    else reader.skip(wireType);
  }
  return files;
}
