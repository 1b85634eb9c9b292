"""A scheduler."""

import argparse

from mindspore_federated import FlSchedulerJob

parser = argparse.ArgumentParser()
parser.add_argument("--yaml_config", type=str, default="job.yaml")
parser.add_argument("--scheduler_manage_address", type=str, default="127.0.0.1:11202")
args, _ = parser.parse_known_args()

if __name__ == "__main__":
    job = FlSchedulerJob(
        yaml_config=args.yaml_config, manage_address=args.scheduler_manage_address
    )
    job.run()
    print("the scheduler has returned")
