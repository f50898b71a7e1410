# docker build -t talkhead .    A CUDA build of torch is what pip takes; for a CPU build give pip the index of PyTorch's CPU
# wheels:                       docker build --build-arg PIP_OPTIONS="--extra-index-url URL" -t talkhead .
# Then: docker run --rm -v "$PWD:/data" talkhead generate --image /data/me.png --audio /data/hello.wav --output /data/o.mp4
FROM python:3.11-slim
ARG PIP_OPTIONS=""
WORKDIR /talkhead
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY talkhead ./talkhead
RUN pip install --no-cache-dir ${PIP_OPTIONS} -c constraints.txt ".[dlib,ui,live]" \
 && talkhead doctor --fix
EXPOSE 7860 8000
ENTRYPOINT ["talkhead"]
CMD ["--help"]
