#!/bin/bash
# Lists every GID in use, as the vendor's well-known script does: one process for each file that is read.
class=/sys/class/infiniband
echo -e "DEV\tPORT\tINDEX\tGID\tIPv4\tVER\tDEV"
for device in $(ls $class); do
  for port in $(ls $class/$device/ports); do
    folder=$class/$device/ports/$port
    for index in $(ls $folder/gids | sort -n); do
      gid=$(cat $folder/gids/$index)
      [ "$gid" = 0000:0000:0000:0000:0000:0000:0000:0000 ] && continue
      [ "$gid" = fe80:0000:0000:0000:0000:0000:0000:0000 ] && continue
      type=$(cat $folder/gid_attrs/types/$index 2>/dev/null | grep -o "[Vv][12]")
      netdev=$(cat $folder/gid_attrs/ndevs/$index 2>/dev/null)
      address=""
      if [ "$(echo $gid | cut -d: -f1-6)" = 0000:0000:0000:0000:0000:ffff ]; then
        high=$(echo $gid | cut -d: -f7)
        low=$(echo $gid | cut -d: -f8)
        address=$(printf "%d.%d.%d.%d" 0x${high:0:2} 0x${high:2:2} 0x${low:0:2} 0x${low:2:2})
      fi
      echo -e "$device\t$port\t$index\t$gid\t$address\t$type\t$netdev"
    done
  done
done
