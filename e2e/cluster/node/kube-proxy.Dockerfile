# kube-proxy calls iptables, nft and conntrack. Without iptables' plugin libraries, Services of two endpoints would fail.
ARG BASE
FROM $BASE AS tools
RUN set -e; mkdir -p /out/usr/bin /out/usr/sbin /out/usr/lib /out/usr/lib64 /out/tmp /out/run; \
    for d in bin sbin lib lib64; do ln -s usr/$d /out/$d; done; \
    files="/usr/sbin/xtables-nft-multi /usr/sbin/nft /usr/sbin/conntrack $(echo /usr/lib/*-linux-gnu/xtables/*.so)"; \
    libraries=$(ldd $files | awk '$2 == "=>" {print "/usr" $3} $1 ~ "^/lib" && $2 != "=>" && !/:$/ {print "/usr" $1}' | sort -u); \
    cp -L --parents $files $libraries /out; \
    for n in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do \
      ln -s xtables-nft-multi /out/usr/sbin/$n; done
FROM scratch
COPY --from=tools /out /
COPY kube-proxy /usr/local/bin/kube-proxy
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
