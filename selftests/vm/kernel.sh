#!/bin/bash
echo ${KDIR:-$HOME/.cache/vireo/kernel-bringup}
