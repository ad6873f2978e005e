"""Plans: the jobs that a study or a grid will do, how many are done, and about what they will take."""

from nearzero.study.plan.plan import PlannedStep, WorkPlan, planned, trained_size, work_plan
from nearzero.study.plan.study import done_of, plan_study

__all__ = ["PlannedStep", "WorkPlan", "done_of", "plan_study", "planned", "trained_size", "work_plan"]
