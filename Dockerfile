# syntax=docker/dockerfile:1
# The image for users with a container engine; image/build makes the same one without.
#   docker build -t ottla .
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    install -D "$(image/compile dist)" /root-of-image/bin/ottla \
 && while read -r tool; do ln -s ottla "/root-of-image/bin/$tool"; done <image/tools \
 && install -d -m 0770 -o 65532 -g 65532 /root-of-image/data \
 && install -d -m 1777 /root-of-image/tmp

FROM scratch
COPY --from=build /root-of-image/ /
ENV PATH=/bin KAFKA_LOG_DIRS=/data
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 9092
ENTRYPOINT ["/bin/ottla"]
CMD ["broker"]
